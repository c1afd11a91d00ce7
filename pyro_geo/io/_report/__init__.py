"""What a report page is made of: choice of components, pictures, tables, HTML."""
