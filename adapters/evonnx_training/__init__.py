"""What adapters that train share, free of any framework: graph, what is trained, settings, views."""
