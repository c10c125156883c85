"""What a job will take and cost, before anything is scheduled."""
