"""What each notebook computes, a file each."""
