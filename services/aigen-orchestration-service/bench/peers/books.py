"""The peers' own tables: requests, timeline, accounts, ledger; and one stored procedure for each
thing that happens.

All three peers share them, so that a difference between peers is one of their job machinery. A
procedure is one round trip and its plans are cached: cheaper than what most users of these
libraries would write, which is in their favour. Each is a guarded write, so a job that is delivered
twice changes nothing the second time.
"""

SCHEMA = """
CREATE TABLE accounts (user_id text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
CREATE TABLE ledger (key text PRIMARY KEY, user_id text NOT NULL, amount bigint NOT NULL,
                     at timestamptz NOT NULL DEFAULT now());
CREATE TABLE requests (
    id uuid PRIMARY KEY, user_id text NOT NULL, state text NOT NULL, brief jsonb NOT NULL,
        samples jsonb,
    selected_sample_id text, final_asset jsonb, created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now());
CREATE TABLE timeline (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    request_id uuid NOT NULL,
                       event text NOT NULL, at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON timeline (request_id);

-- The account's row is locked by its one guarded update; the ledger's key is the business key
-- of the charge.
CREATE FUNCTION charge(who text, what text, price bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE accounts SET balance = balance - price WHERE user_id = who AND balance >= price;
    IF NOT FOUND THEN RETURN false; END IF;
    INSERT INTO ledger (key, user_id, amount) VALUES (what, who, -price);
    RETURN true;
END $$;

CREATE FUNCTION accept_request(request uuid, who text, what jsonb,
    price bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT charge(who, request || ':samples:1', price) THEN RETURN false; END IF;
    INSERT INTO requests (id, user_id, state, brief) VALUES (request, who, 'PENDING', what);
    INSERT INTO timeline (request_id, event) VALUES (request, 'submitted');
    RETURN true;
END $$;

-- The user to notify. Delivered before is no failure: a worker may have died after its commit.
CREATE FUNCTION deliver_samples(request uuid, made jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE requests SET state = 'AWAITING_SELECTION', samples = made, updated_at = now()
    WHERE id = request AND state = 'PENDING';
    IF FOUND THEN INSERT INTO timeline (request_id, event) VALUES (request,
        'samples_delivered'); END IF;
    RETURN (SELECT user_id FROM requests WHERE id = request);
END $$;

CREATE FUNCTION select_sample(request uuid, chosen text,
    price bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE who text;
BEGIN
    UPDATE requests SET state = 'PENDING_FINAL', selected_sample_id = chosen, updated_at = now()
    WHERE id = request AND state = 'AWAITING_SELECTION'
      AND samples @> jsonb_build_array(jsonb_build_object('asset_id', chosen))
    RETURNING user_id INTO who;
    IF NOT FOUND THEN RETURN 'conflict'; END IF;
    IF NOT charge(who, request || ':final:1', price) THEN
        UPDATE requests SET state = 'AWAITING_SELECTION', selected_sample_id = NULL
            WHERE id = request;
        RETURN 'no credits';
    END IF;
    INSERT INTO timeline (request_id, event) VALUES (request, 'sample_selected');
    RETURN 'chosen';
END $$;

CREATE FUNCTION deliver_final(request uuid, made jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE requests SET state = 'COMPLETED', final_asset = made, updated_at = now()
    WHERE id = request AND state = 'PENDING_FINAL';
    IF FOUND THEN INSERT INTO timeline (request_id, event) VALUES (request,
        'final_delivered'); END IF;
    RETURN (SELECT user_id FROM requests WHERE id = request);
END $$;
"""

FUND = "INSERT INTO accounts SELECT user_id, $2 FROM unnest($1::text[]) AS u(user_id)"

EXACT = """
SELECT (SELECT count(*) FROM requests WHERE state = 'COMPLETED') AS completed,
       (SELECT count(*) FROM requests WHERE state <> 'COMPLETED') AS unfinished,
       (SELECT count(*) FROM requests r
        WHERE (SELECT array_agg(event ORDER BY seq) FROM timeline WHERE request_id = r.id)
              IS DISTINCT
                  FROM '{submitted,samples_delivered,sample_selected,final_delivered}'
              ) AS wrong_timelines,
       (SELECT COALESCE(-sum(amount), 0) FROM ledger)::bigint AS charged,
       (SELECT count(*) * $1 - sum(balance) FROM accounts)::bigint AS taken"""
