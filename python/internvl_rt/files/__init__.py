"""Files of users: read within bounds, written where nothing else is lost."""
