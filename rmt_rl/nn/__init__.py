"""Building blocks of cores: attention, rotary positions, encoders and heads made from Gymnasium spaces."""
