"""Answers, and what is made of them: boxes, forms, votes, judgements."""
