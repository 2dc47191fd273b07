"""Dense tasks: something at every pixel of rendered rooms."""
