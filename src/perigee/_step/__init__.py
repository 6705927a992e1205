"""The Step and its parts."""
