"""What Eventray measures of itself: the metrics, what counts them, and the one address at which they are served."""
