"""Color-Cubes: which memory knows where the cubes are now, learnt offline from an expert."""
