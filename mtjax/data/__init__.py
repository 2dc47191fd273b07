"""Data: sources, fetching, tables, streams. (TFDS and Grain are imported when a stream is made, not before.)"""
# Where batches come from, and in which order.
from mtjax.data.sampler import BlockSampler, Permutation, rates
from mtjax.data.streams import Batches, Stream

# Rows at random access, and columns computed from them.
from mtjax.data.formats import Bytes, decode_bytes
from mtjax.data.tables import ArrayTable, RecordTable, Table, open_table
