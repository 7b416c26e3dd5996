-- Roles of the database for each step of a release. Run it as a superuser, in the service's database, as often as you like:
--
--   psql -d signal_db -v database=signal_db -v schema=public -v owner=signal_owner -v application=signal_user -f roles.sql
--
-- The roles have no password yet and cannot log in with one until they get it: \password signal_backup, and so on.
\set ON_ERROR_STOP on
SELECT :'database' = current_database() AS here \gset
\if :here
\else
\warn 'roles.sql must be run in the database that it is for'
DO $$ BEGIN RAISE EXCEPTION 'connected to database %, expected the one named by -v database', current_database(); END $$;
\endif

BEGIN;

SELECT format('CREATE ROLE %I LOGIN', name) AS statement
FROM unnest(ARRAY['signal_backup', 'signal_migrator', 'signal_verifier']) AS name
WHERE name NOT IN (SELECT rolname FROM pg_roles) \gexec

-- Backup: reads every table and sequence, writes nothing. BYPASSRLS lets it read tables with row security in full; pg_dump stops
-- at the first one otherwise. It needs none of it where no table has row security.
ALTER ROLE signal_backup NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION BYPASSRLS;
GRANT pg_read_all_data, pg_read_all_settings TO signal_backup;
ALTER ROLE signal_backup IN DATABASE :"database" SET default_transaction_read_only = on;

-- Migrator: is a member of the owner and becomes it in each session, so that what it creates belongs to the owner. The owner sees
-- other sessions' activity, so that a lock that is not free has a name.
ALTER ROLE signal_migrator NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS NOINHERIT;
GRANT :"owner" TO signal_migrator;
GRANT pg_read_all_stats TO :"owner";
GRANT TEMPORARY ON DATABASE :"database" TO :"owner";
ALTER ROLE signal_migrator IN DATABASE :"database" SET role = :'owner';

-- Verifier: reads catalogs only. It sees no row of any table. The canary row of hypertable_verify, where it is wanted, needs
-- SELECT and INSERT on the hypertables: give them, or let the application's own role verify.
ALTER ROLE signal_verifier NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;
GRANT USAGE ON SCHEMA :"schema" TO signal_verifier;
ALTER ROLE signal_verifier IN DATABASE :"database" SET default_transaction_read_only = on;

-- The application: what it needs of the tables that are there and of those that the owner will create.
GRANT CONNECT ON DATABASE :"database" TO signal_backup, signal_migrator, signal_verifier, :"application";
GRANT USAGE ON SCHEMA :"schema" TO :"application";
GRANT CREATE, USAGE ON SCHEMA :"schema" TO :"owner";

COMMIT;

-- Restore: has no role here. Restoring TimescaleDB needs a superuser (the extension's own tables, CREATE EXTENSION,
-- timescaledb.restoring). Use the server's own administrator for it, by name and on the day, and not in the inventory.
