"""POPGym, Easy: what is learnt offline from experts, in the returns of its paper and normalised."""
