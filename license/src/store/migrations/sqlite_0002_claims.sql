-- A claim that failed is given back, and events are kept by the claim that they tell of.

-- The claim that made a row, as a random number, and how many claims have had it and were not given back. Rows that are
-- there already stay.
ALTER TABLE used_token ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
ALTER TABLE used_token ADD COLUMN claims INTEGER NOT NULL DEFAULT 1;
ALTER TABLE device ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
ALTER TABLE device ADD COLUMN claims INTEGER NOT NULL DEFAULT 1;
ALTER TABLE stream ADD COLUMN claim INTEGER NOT NULL DEFAULT 0;
ALTER TABLE stream ADD COLUMN claims INTEGER NOT NULL DEFAULT 1;

-- What is told of a stream that runs out; NULL: nobody wants to hear it.
ALTER TABLE stream ADD COLUMN told TEXT;

-- The claim whose success is still waited for; NULL: none is.
ALTER TABLE event ADD COLUMN claim INTEGER;

CREATE INDEX event_claim ON event (claim) WHERE claim IS NOT NULL;

PRAGMA user_version = 2;
