"""What a spec costs: parameters, FLOPs, memory, time."""
