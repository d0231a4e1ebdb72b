"""Marks that tell people and machines that a result is synthetic, and what reads them."""
