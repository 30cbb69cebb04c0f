"""Where examples come from and how they become what a graph takes."""
