"""A trained agent's step as one graph that runs without this toolkit, and acting by such a graph."""
