"""Export of trained models to the formats of other libraries, with a proof that they compute the same."""
