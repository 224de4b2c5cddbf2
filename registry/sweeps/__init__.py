"""Many specs trained as one sweep: jobs, engines, results."""
