"""A loaded model: questions in, answers out."""
