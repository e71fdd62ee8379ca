using System.Runtime.InteropServices;

namespace FramePin.Core.Frames;

/// <summary>State of a frame, the counterpart of page flags.</summary>
[Flags]
public enum FrameFlags : uint
{
    None = 0,
    /// <summary>First frame of a folio in use.</summary>
    Head = 1u << 0,
    /// <summary>A later frame of a folio; <see cref="FrameState.Order"/> leads to the head.</summary>
    Tail = 1u << 1,
    /// <summary>First frame of a free block; the links are valid.</summary>
    Buddy = 1u << 2,
    /// <summary>Never given out by the allocator.</summary>
    Reserved = 1u << 3,
    Anon = 1u << 4,
    /// <summary>In a memory file's page cache (mapping not NULL).</summary>
    InCache = 1u << 5,
    Dirty = 1u << 6,
    Referenced = 1u << 7,
    HwPoison = 1u << 8,
    HugeTlb = 1u << 9,
    Secret = 1u << 10,
    /// <summary>The machine's shared zero page.</summary>
    Zero = 1u << 11,
    /// <summary>RAM that a device owns and maps (remap_pfn_range, vm_insert_page).</summary>
    Device = 1u << 12,
    /// <summary>A page of a file whose file system tracks dirty pages and writes them back.</summary>
    DirtyTracked = 1u << 13,
    /// <summary>Bytes may differ from zero: zero them before the next use.</summary>
    Touched = 1u << 14,
    /// <summary>Last reference gone outside a turn; freed in the next one.</summary>
    PendingFree = 1u << 15,
    /// <summary>PCI peer-to-peer memory: only FOLL_PCI_P2PDMA may take it.</summary>
    P2PDma = 1u << 16,
    /// <summary>
    /// Anonymous memory that MADV_FREE gave away (not swap-backed): reclaim drops it as long as nobody stores to it.
    /// </summary>
    LazyFree = 1u << 17,
    /// <summary>
    /// To be dropped as soon as it is written back (PG_reclaim); fault-around passes it over (the bit is PG_readahead's
    /// too).
    /// </summary>
    Reclaim = 1u << 18,
    /// <summary>
    /// Locked in memory, and passed over by reclaim (PG_mlocked); <see cref="FrameState.MlockCount"/> says how often.
    /// </summary>
    Mlocked = 1u << 19,
    /// <summary>In the swap cache: the frame holds what a slot of swap holds, or will hold (PG_swapcache).</summary>
    SwapCache = 1u << 20,
    /// <summary>More than one address space maps the large folio, or did (FOLIO_MM_IDS_SHARED).</summary>
    MappedShared = 1u << 21,
    /// <summary>
    /// A huge page that its owner unmapped: the pool promises it again when it comes back (HPageRestoreReserve).
    /// </summary>
    RestoreReserve = 1u << 22,
}

/// <summary>
/// The fields that every walk over frames reads, in an array of its own as the counts are: 8 bytes a frame, which a
/// test asserts. Guarded by the machine's turn, but for the dirty bits, which an unpin sets without it.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FrameState
{
    public FrameFlags Flags;

    /// <summary>How often the folio was locked (mlock_count of struct page); head only.</summary>
    public ushort MlockCount;

    /// <summary>log2 of the folio's or free block's frames; valid in head, tail and buddy.</summary>
    public byte Order;
}

/// <summary>The rest of a frame's struct page: 24 bytes, which a test asserts. Guarded by the machine's turn.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FrameInfo
{
    /// <summary>Page-table entries that map the folio (head only): a leaf of any size counts once.</summary>
    public int MapCount;

    /// <summary>
    /// Where the folio's mappings are found (head only): the id of the memory file in whose cache it is, or of the
    /// anon_vma of an anonymous one; 0 for neither.
    /// </summary>
    public int Mapping;

    /// <summary>
    /// Page index in the file or in the anon_vma (head); who maps a large folio (second frame); next free block
    /// (buddy); next pending frame (pending free).
    /// </summary>
    public ulong Index;

    /// <summary>
    /// Slot of swap (swap cache); previous free block (buddy); how many entries of each map a large folio (second
    /// frame).
    /// </summary>
    public ulong Link;
}

/// <summary>The record of a frame, wherever its parts lie: the counterpart of struct page without its counts.</summary>
internal readonly ref struct FrameRecord(ref FrameState state, ref FrameInfo info)
{
    private readonly ref FrameState _state = ref state;
    private readonly ref FrameInfo _info = ref info;

    /// <inheritdoc cref="FrameState.Flags"/>
    public ref FrameFlags Flags => ref _state.Flags;

    /// <inheritdoc cref="FrameState.MlockCount"/>
    public ref ushort MlockCount => ref _state.MlockCount;

    /// <inheritdoc cref="FrameState.Order"/>
    public ref byte Order => ref _state.Order;

    /// <inheritdoc cref="FrameInfo.MapCount"/>
    public ref int MapCount => ref _info.MapCount;

    /// <summary>Id of the memory file in whose cache the folio is; 0 for none. Not for an anonymous folio.</summary>
    public ref int FileId => ref _info.Mapping;

    /// <summary>Id of the anon_vma that an anonymous folio was made for; 0 before it is mapped.</summary>
    public ref int AnonVmaId => ref _info.Mapping;

    /// <inheritdoc cref="FrameInfo.Index"/>
    public ref ulong Index => ref _info.Index;

    /// <inheritdoc cref="FrameInfo.Link"/>
    public ref ulong Link => ref _info.Link;

    /// <summary>Slot of a frame in the swap cache.</summary>
    public ref ulong SwapSlot => ref _info.Link;

    /// <summary>As that of a frame that was never used.</summary>
    public void Clear()
    {
        _state = default;
        _info = default;
    }
}
