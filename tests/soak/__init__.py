"""`make soak`: real databases on volumes of the real plugin, harmed at random and looked at."""
