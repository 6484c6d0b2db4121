-- A copy of a database must never write to the clusters of the original.
UPDATE vworkspace_cluster
   SET active = FALSE,
       state = 'revoked',
       verification_state = 'none',
       verified_credential_id = NULL,
       connection_version = connection_version + 1;
DELETE FROM vworkspace_cluster_credential;
DELETE FROM vworkspace_watch_lease;
DELETE FROM vworkspace_watch_worker;
