"""Networks: what runs. Super-nets and discrete networks, folding and counting."""
