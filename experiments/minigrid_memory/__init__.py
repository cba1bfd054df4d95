"""MiniGrid Memory: trained at size 41, rolled out at 11 to 501."""
