{
    "name": "vWorkspace Push",
    "summary": "Deploy applications to Kubernetes clusters, and see how they are",
    "version": "19.0.1.0.0",
    "category": "Services/vWorkspace",
    "author": "vWorkspace",
    "website": "https://vworkspace.example",
    "license": "LGPL-3",
    "depends": ["base_setup", "bus", "mail", "web"],
    "external_dependencies": {
        "python": ["kubernetes>=33", "PyYAML>=6", "cryptography>=42"],
    },
    "data": [
        "security/vworkspace_groups.xml",
        "security/ir.model.access.csv",
        "security/vworkspace_rules.xml",
        "data/ir_cron.xml",
        "views/vworkspace_application_instance_views.xml",
        "views/vworkspace_cluster_views.xml",
        "views/vworkspace_menus.xml",  # Needs the actions of the two above.
    ],
    "demo": ["demo/res_users_demo.xml"],
    "assets": {
        "web.assets_backend": ["vworkspace_push/static/src/**/*"],
    },
    "application": True,
}
