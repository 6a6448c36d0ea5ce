"""What a dataset is, how fast it can be read here, and what that will cost a job."""
