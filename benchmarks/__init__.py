"""What callwatch costs and how fast it is: programs that measure it, and the references it is measured against."""
