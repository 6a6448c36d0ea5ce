"""Checkpoints that outlive the containers: where they are kept, and the agent that syncs them while a job runs."""
