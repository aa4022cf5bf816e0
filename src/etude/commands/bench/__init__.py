"""`etude bench`: what training and decoding cost, and which of two benches is faster."""
