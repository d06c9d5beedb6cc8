"""Looking at jobs with statements that both stores understand."""
