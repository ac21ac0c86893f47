"""Records -> leaderboard.md, README's table and figures. `records` reads, `figures` and `curve` draw, `leaderboard` writes."""
