"""Any npz or HDF5 with one row a step, whose columns --map names."""

from rmt_rl.data.layout import Layout

FORMAT = Layout()
