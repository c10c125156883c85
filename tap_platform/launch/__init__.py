"""Where a job runs: plan, local Ray, and the wiring of Ray Train."""
