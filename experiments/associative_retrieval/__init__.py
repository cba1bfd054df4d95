"""Action Associative Retrieval: trained on episodes of 3 to 90 steps, rolled out to 9,600."""
