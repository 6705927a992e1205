"""The Step, and what it is made of."""
