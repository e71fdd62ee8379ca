using FramePin.Core.Syscalls;

namespace FramePin.Server.Configuration;

/// <summary>Every limit of the daemon, with its unit and reason. A refusal names the limit and its value.</summary>
public sealed record DaemonLimits
{
    /// <summary>machines_max: each reserves address space and a descriptor.</summary>
    public int MachinesMax { get; init; } = 64;

    /// <summary>address_spaces_max, per machine: each costs a page table and a name.</summary>
    public int AddressSpacesMax { get; init; } = 4096;

    /// <summary>files_max, per machine.</summary>
    public int FilesMax { get; init; } = 65536;

    /// <summary>devices_max, per machine.</summary>
    public int DevicesMax { get; init; } = 1024;

    /// <summary>device_pages_max: an eager mapping fills one entry a page (1 GiB).</summary>
    public ulong DevicePagesMax { get; init; } = 262_144;

    /// <summary>frame_vectors_max, per machine: each is a pin that somebody may have forgotten.</summary>
    public int FrameVectorsMax { get; init; } = 262_144;

    /// <summary>vector_pages_max: 8 bytes a slot, so 8 MiB a vector (4 GiB pinned).</summary>
    public ulong VectorPagesMax { get; init; } = 1UL << 20;

    /// <summary>
    /// reply_runs_max: runs in one answer, about 3 MiB on the wire; with more, ask without frames and read struct pages
    /// in chunks by GetPages.
    /// </summary>
    public int ReplyRunsMax { get; init; } = 262_144;

    /// <summary>batch_operations_max, per message of a stream or a batch of calls.</summary>
    public int BatchOperationsMax { get; init; } = 4096;

    /// <summary>
    /// stream_sessions_max, per machine: sessions remembered, the one longest unused forgotten first.
    /// </summary>
    public int StreamSessionsMax { get; init; } = 1024;

    /// <summary>
    /// unacknowledged_max: results of a session kept for a repeat. More are a client that never acknowledges.
    /// </summary>
    public int UnacknowledgedMax { get; init; } = 64;

    /// <summary>page_size_max: entries in one answer of a List call, some hundred bytes each.</summary>
    public uint PageSizeMax { get; init; } = 1000;

    /// <summary>Entries in an answer to a List call that names no page_size.</summary>
    public uint PageSizeDefault { get; init; } = 100;

    /// <summary>file_bytes_max: bytes of a file (64 TiB). Pages of a hole cost nothing.</summary>
    public ulong FileBytesMax { get; init; } = CreateFileCall.MaxBytes;

    /// <summary>pages_per_answer: struct pages in one answer of GetPages, about 100 bytes each.</summary>
    public uint PagesPerAnswer { get; init; } = 1024;

    /// <summary>touch_pages_max, per touch: it holds the machine's turn.</summary>
    public uint TouchPagesMax { get; init; } = 262_144;

    /// <summary>pagemap_pages_max: pages of mincore and pagemap in one answer.</summary>
    public ulong PagemapPagesMax { get; init; } = 65_536;

    /// <summary>read_bytes_max: bytes of one ReadMemory (1 GiB).</summary>
    public ulong ReadBytesMax { get; init; } = 1UL << 30;

    /// <summary>chunk_bytes_max: larger gRPC messages have hung connections.</summary>
    public int ChunkBytesMax { get; init; } = 65_536;

    /// <summary>message_bytes_max, for one gRPC message received.</summary>
    public int MessageBytesMax { get; init; } = 4 << 20;

    /// <summary>request_ids_max, per machine: answers remembered for repeats, oldest forgotten first.</summary>
    public int RequestIdsMax { get; init; } = 65_536;

    /// <summary>request_id_length_max, in characters.</summary>
    public int RequestIdLengthMax { get; init; } = 128;

    /// <summary>name_length_max, in characters of one segment.</summary>
    public int NameLengthMax { get; init; } = 63;

    /// <summary>path_length_max: PATH_MAX of Linux.</summary>
    public int PathLengthMax { get; init; } = 4096;

    /// <summary>fault_rules_max, in one request.</summary>
    public int FaultRulesMax { get; init; } = 256;

    /// <summary>leases_max, per machine: each is a client with a timer.</summary>
    public int LeasesMax { get; init; } = 4096;

    /// <summary>lease_ttl_min: shorter, and a pause of the client's garbage collector would end it.</summary>
    public TimeSpan LeaseTtlMin { get; init; } = TimeSpan.FromMilliseconds(500);

    /// <summary>lease_ttl_default.</summary>
    public TimeSpan LeaseTtlDefault { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>lease_ttl_max: what a dead client may hold longest.</summary>
    public TimeSpan LeaseTtlMax { get; init; } = TimeSpan.FromHours(1);

    /// <summary>owner_length_max, in characters.</summary>
    public int OwnerLengthMax { get; init; } = 128;

    /// <summary>attach_tickets_max: tickets issued and not shown yet.</summary>
    public int AttachTicketsMax { get; init; } = 1024;

    /// <summary>How long a ticket is good, and a connection to the attach socket may take to show one.</summary>
    public TimeSpan AttachTicketLife { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>
    /// quarantine_bytes_max, per machine that names none: free memory kept back because local processes may have it
    /// mapped.
    /// </summary>
    public ulong QuarantineBytesMax { get; init; } = 256UL << 20;

    /// <summary>How long a process that was killed for what it held may take to be dead.</summary>
    public TimeSpan KillPatience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>watches_max, per machine: each is asked before memory goes.</summary>
    public int WatchesMax { get; init; } = 256;

    /// <summary>watch_patience_max: how long a call waits for a subscriber's acknowledgement.</summary>
    public TimeSpan WatchPatienceMax { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Events that a subscriber may leave unread.</summary>
    public int WatchEventsMax { get; init; } = 1024;

    /// <summary>Invalidations remembered for a watch that comes back, per machine.</summary>
    public int WatchHistoryMax { get; init; } = 4096;

    /// <summary>A watch that has heard nothing for so long is told the present revision.</summary>
    public TimeSpan WatchProgress { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>drivers_max: nodes served, each with a stream.</summary>
    public int DriversMax { get; init; } = 256;

    /// <summary>driver_files_max, per driver: open files of a node.</summary>
    public int DriverFilesMax { get; init; } = 1024;

    /// <summary>
    /// driver_calls_max, per driver: calls that it has not answered. More, and it has stopped answering.
    /// </summary>
    public int DriverCallsMax { get; init; } = 1024;

    /// <summary>
    /// local_connections_max: connections of local calls, each with a thread that sleeps between messages.
    /// </summary>
    public int LocalConnectionsMax { get; init; } = 4096;

    /// <summary>
    /// How long a client of local calls may leave the daemon's answers unread, with the socket's buffer full, before it
    /// is taken for gone.
    /// </summary>
    public TimeSpan LocalPatience { get; init; } = TimeSpan.FromSeconds(5);

    /// <summary>Deadline of a call that came without one.</summary>
    public TimeSpan DefaultDeadline { get; init; } = TimeSpan.FromMinutes(2);

    /// <summary>
    /// How long a stream whose client reads no more stays open after SIGTERM. The others are told at once.
    /// </summary>
    public TimeSpan StreamGrace { get; init; } = TimeSpan.FromMilliseconds(500);

    /// <summary>How long calls in flight may take to finish after SIGTERM.</summary>
    public TimeSpan ShutdownGrace { get; init; } = TimeSpan.FromSeconds(10);
}
