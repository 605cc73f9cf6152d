"""What a report looks like: figures for papers, and a page that needs nothing else."""
