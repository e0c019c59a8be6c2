"""Floor 10: what people read: tables on a screen, Markdown, LaTeX documents."""
