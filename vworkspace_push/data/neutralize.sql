-- A copy of a database must never write to the clusters of the original.
UPDATE vworkspace_cluster SET active = FALSE, connection_version = connection_version + 1;
DELETE FROM vworkspace_cluster_credential;
