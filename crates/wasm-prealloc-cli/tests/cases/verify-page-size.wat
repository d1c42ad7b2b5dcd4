;; RUN: verify %s --pages 1
;; Pages of one byte: only the first memory has the size of one 64 KiB page.
(module (memory 65536 65536 (pagesize 1)) (memory 1 1 (pagesize 1)))
