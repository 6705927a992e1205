"""The loop, a pass without updates, a loop of the user's own, and what they log."""
