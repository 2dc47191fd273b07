"""The parts of the encoder benchmark: families and their plain counterparts, decoding, compile times, clocks."""
