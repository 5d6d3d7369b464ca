"""What people look at: tables, figures and pages, all made from records."""
