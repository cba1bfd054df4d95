"""Lives of hidden goals: memories that learn within a life, cloned from experts that explore and then exploit."""
