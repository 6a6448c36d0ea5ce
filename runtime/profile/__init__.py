"""Where the time goes: phase times of each rank, samples of the machine, and the report that tells it."""
