"""Small tools without business rules."""
