"""Events, hooks, cadences, signals, and the protocols between the rooms."""
