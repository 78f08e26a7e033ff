"""What Prometheus and Grafana are given: a scrape config, alert rules, dashboards."""
