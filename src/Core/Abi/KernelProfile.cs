namespace FramePin.Core.Abi;

/// <summary>Eras of the frame helper (Semantics, its README).</summary>
public enum HelperEra
{
    /// <summary>4.3 to 4.8: write/force booleans, GUP references, follow_pfn for VM_IO and VM_PFNMAP.</summary>
    A0,
    /// <summary>4.9 to 5.7: gup_flags.</summary>
    A1,
    /// <summary>5.8 to 5.11: FOLL_PIN.</summary>
    A2,
    /// <summary>5.12 to 6.0: always write, force and longterm; follow_pfn only when the pin got nothing.</summary>
    B,
    /// <summary>6.1: pfn mappings refused, warning once; still always write, force and longterm.</summary>
    C,
    /// <summary>6.2 and later: LONGTERM, WRITE by argument, no FORCE.</summary>
    D,
}

/// <summary>
/// When a write to a page of a large anonymous folio, mapped by small entries and shared once, uses it on instead of
/// copying it.
/// </summary>
public enum LargeFolioReuse
{
    /// <summary>When nothing else refers to any page of the folio.</summary>
    WithoutOtherPages,
    Never,
    /// <summary>
    /// When more than one of its pages is mapped, all by one process, and nobody refers to it otherwise.
    /// </summary>
    WithinOneProcess,
}

/// <summary>
/// Which kernel's answers a machine gives: a helper era and the rules of its mm. This is the one table of differences;
/// code asks the profile and never compares versions itself.
/// </summary>
public sealed record KernelProfile
{
    public required string Name { get; init; }

    public required HelperEra Era { get; init; }

    /// <summary>
    /// follow_pfn's -EINVAL hides the pin's errno in era B before about 5.17 (row "first PTE absent").
    /// </summary>
    public bool PfnErrorHidesPinError { get; init; }

    /// <summary>
    /// A read-only LONGTERM pin unshares the zero page and private file pages (6.1 does not; Semantics 0).
    /// </summary>
    public required bool LongTermUnsharesFilePages { get; init; }

    /// <summary>
    /// A range that wraps: -EOVERFLOW from the fast family (D); older: 0 from the fast calls (Semantics 0).
    /// </summary>
    public required bool FastWrapIsOverflow { get; init; }

    /// <summary>LONGTERM write pins of shared dirty-tracked file mappings are refused (about 6.5).</summary>
    public required bool RefusesDirtyTrackedLongTerm { get; init; }

    /// <summary>
    /// FOLL_FORCE with FOLL_WRITE copies a private huge page that may not be written (not from 6.1.2 to 6.12).
    /// </summary>
    public required bool ForcesHugeTlbWrites { get; init; }

    /// <summary>
    /// A private huge page that its owner unmaps is promised to the owner again (6.10; mm/hugetlb.c:
    /// __unmap_hugepage_range).
    /// </summary>
    public required bool RestoresHugePromises { get; init; }

    /// <summary>memfd_secret exists (5.14).</summary>
    public required bool HasSecretMemory { get; init; }

    /// <summary>pin_user_pages_remote accepts LONGTERM (6.1: -EINVAL).</summary>
    public required bool RemoteLongTerm { get; init; }

    /// <summary>A small folio without mapping leaves the fast path, for GET as for PIN (6.12; not 6.1).</summary>
    public required bool MappinglessIsSlow { get; init; }

    /// <summary>
    /// get_user_pages_fast_only refuses addresses of the kernel's half with -EFAULT (6.12; 6.1 is never negative).
    /// </summary>
    public required bool FastOnlyMayFail { get; init; }

    /// <summary>mseal exists (6.10).</summary>
    public required bool HasMseal { get; init; }

    /// <summary>MAP_DROPPABLE exists (6.11).</summary>
    public required bool HasDroppable { get; init; }

    /// <summary>MADV_GUARD_INSTALL exists (6.13).</summary>
    public required bool HasGuardRegions { get; init; }

    /// <summary>mprotect to read-only drops VM_ACCOUNT of an unfaulted anonymous VMA (about 6.5).</summary>
    public required bool MprotectUnaccounts { get; init; }

    /// <summary>Anonymous mappings whose length is a multiple of 2 MiB are placed on a 2 MiB boundary (6.7).</summary>
    public required bool AlignsHugeAnonymous { get; init; }

    /// <summary>MAP_ABOVE4G exists (6.6).</summary>
    public required bool HasMapAbove4G { get; init; }

    /// <summary>
    /// hugetlbfs places its mappings by the rules of all others (6.13). x86 rounded a hint down before, and knew no
    /// MAP_32BIT and no MAP_ABOVE4G (arch/x86/mm/hugetlbpage.c: hugetlb_get_unmapped_area).
    /// </summary>
    public required bool HugeTlbIsPlacedAsOthers { get; init; }

    /// <summary>
    /// One segment of user memory is cut to MAX_RW_COUNT before its range is checked (lib/iov_iter.c:
    /// __import_iovec_ubuf; 6.4).
    /// </summary>
    public required bool CutsSegmentBeforeCheck { get; init; }

    /// <summary>MAP_STACK keeps huge pages away and so thread stacks from merging (6.7).</summary>
    public required bool StacksRefuseHugePages { get; init; }

    /// <summary>A move by mremap that changes no length takes every area of its range along (6.17).</summary>
    public required bool MovesSeveralAreas { get; init; }

    /// <summary>A fault in an executable mapping reads from its page on, not around it (6.16).</summary>
    public required bool ExecReadsForward { get; init; }

    /// <summary>Page 2 of [vvar] is there (6.18).</summary>
    public required bool VvarHasRandomPage { get; init; }

    /// <summary>
    /// remap_pfn_range over a whole area marks it VM_PAT, which smaps shows as "ar" (arch/x86/mm/pat/memtype.c:
    /// track_pfn_remap; gone in 6.18).
    /// </summary>
    public required bool MarksRemapped { get; init; }

    /// <summary>O_DIRECT pins its pages (6.1 took plain references).</summary>
    public required bool DirectIoPins { get; init; }

    /// <summary>
    /// move_pages walks as a core dump does: an anonymous page that was never touched is -EFAULT, secret memory absent
    /// (6.1).
    /// </summary>
    public required bool NodeQueryDumps { get; init; }

    /// <summary>UFFDIO_POISON exists (6.6).</summary>
    public required bool HasUffdPoison { get; init; }

    /// <summary>PR_SET_MDWE exists (6.3).</summary>
    public required bool HasMdwe { get; init; }

    /// <summary>io_uring registers buffers by pin_user_pages under mmap_lock, without the fast path (6.1).</summary>
    public required bool RingPinsUnderLock { get; init; }

    /// <summary>
    /// Fault-around that would begin with a file's last page does nothing where there is no page table yet (6.18).
    /// </summary>
    public required bool LastPageNeedsTable { get; init; }

    /// <summary>A write to the huge zero page gets a huge page (6.13); before, a small one.</summary>
    public required bool HugeZeroIsReplacedWhole { get; init; }

    /// <summary>
    /// A page that swap-in has just read is locked with its area, as one from the swap cache is (do_swap_page until
    /// 6.10).
    /// </summary>
    public required bool SwapInLocksFreshPages { get; init; }

    /// <summary>
    /// When a write to a page of a large folio that small entries map reuses it (never since about 6.10; by process
    /// since 6.15).
    /// </summary>
    public required LargeFolioReuse LargeFolioReuse { get; init; }

    /// <summary>
    /// Splitting a large folio maps the zero page in place of those of its pages that are zero (6.12).
    /// </summary>
    public required bool SplitDropsZeroes { get; init; }

    /// <summary>
    /// VIDIOC_REMOVE_BUFS exists, and a queue of vivid takes 64 buffers where it took 32 (6.12; not 6.1).
    /// </summary>
    public required bool Vb2RemovesBuffers { get; init; }

    /// <summary>
    /// Planes of a buffer that name one dma-buf share an attachment, and a change lets all planes go (6.12; not 6.1).
    /// </summary>
    public required bool Vb2SharesAttachments { get; init; }

    private static readonly KernelProfile Mm61 = new()
    {
        Name = "6.1",
        Era = HelperEra.C,
        LongTermUnsharesFilePages = false,
        FastWrapIsOverflow = false,
        RefusesDirtyTrackedLongTerm = false,
        ForcesHugeTlbWrites = false,
        HasSecretMemory = true,
        RestoresHugePromises = false,
        RemoteLongTerm = false,
        MappinglessIsSlow = false,
        FastOnlyMayFail = false,
        HasMseal = false,
        HasDroppable = false,
        HasGuardRegions = false,
        MprotectUnaccounts = false,
        AlignsHugeAnonymous = false,
        HasMapAbove4G = false,
        HugeTlbIsPlacedAsOthers = false,
        CutsSegmentBeforeCheck = false,
        StacksRefuseHugePages = false,
        MovesSeveralAreas = false,
        ExecReadsForward = false,
        HugeZeroIsReplacedWhole = false,
        SplitDropsZeroes = false,
        SwapInLocksFreshPages = true,
        LargeFolioReuse = LargeFolioReuse.WithoutOtherPages,
        LastPageNeedsTable = false,
        VvarHasRandomPage = false,
        MarksRemapped = true,
        DirectIoPins = false,
        RingPinsUnderLock = true,
        NodeQueryDumps = true,
        HasUffdPoison = false,
        HasMdwe = false,
        Vb2RemovesBuffers = false,
        Vb2SharesAttachments = false,
    };

    /// <summary>The rules of 6.1 for the kernels before, but for what is known to have come between.</summary>
    private static readonly KernelProfile MmBefore514 = Mm61 with
    {
        ForcesHugeTlbWrites = true,
        HasSecretMemory = false,
    };

    private static readonly KernelProfile Mm612 = Mm61 with
    {
        Name = "6.12",
        RestoresHugePromises = true,
        Era = HelperEra.D,
        LongTermUnsharesFilePages = true,
        FastWrapIsOverflow = true,
        RefusesDirtyTrackedLongTerm = true,
        RemoteLongTerm = true,
        MappinglessIsSlow = true,
        FastOnlyMayFail = true,
        HasMseal = true,
        HasDroppable = true,
        DirectIoPins = true,
        RingPinsUnderLock = false,
        NodeQueryDumps = false,
        HasUffdPoison = true,
        HasMdwe = true,
        Vb2RemovesBuffers = true,
        Vb2SharesAttachments = true,
        LargeFolioReuse = LargeFolioReuse.Never,
        SplitDropsZeroes = true,
        SwapInLocksFreshPages = false,
        MprotectUnaccounts = true,
        AlignsHugeAnonymous = true,
        HasMapAbove4G = true,
        CutsSegmentBeforeCheck = true,
        StacksRefuseHugePages = true,
    };

    private static readonly KernelProfile Mm618 = Mm612 with
    {
        Name = "6.18",
        ForcesHugeTlbWrites = true,
        HasGuardRegions = true,
        MovesSeveralAreas = true,
        HugeTlbIsPlacedAsOthers = true,
        ExecReadsForward = true,
        HugeZeroIsReplacedWhole = true,
        LargeFolioReuse = LargeFolioReuse.WithinOneProcess,
        LastPageNeedsTable = true,
        VvarHasRandomPage = true,
        MarksRemapped = false,
    };

    /// <summary>Every profile. The eras before 6.1 run over the mm rules of 6.1: a written deviation.</summary>
    public static IReadOnlyList<KernelProfile> All { get; } =
    [
        MmBefore514 with { Name = "4.3", Era = HelperEra.A0 },
        MmBefore514 with { Name = "4.9", Era = HelperEra.A1 },
        MmBefore514 with { Name = "5.8", Era = HelperEra.A2 },
        MmBefore514 with { Name = "5.12", Era = HelperEra.B, PfnErrorHidesPinError = true },
        MmBefore514 with { Name = "5.17", Era = HelperEra.B, HasSecretMemory = true },
        Mm61,
        Mm612,
        Mm618,
    ];

    /// <summary>The helper as the series was merged.</summary>
    public static KernelProfile Default => All[0];

    /// <summary>The kernel of the recordings: used by replay, import, conformance and benchmarks.</summary>
    public static KernelProfile Recorded => Mm618;

    /// <summary>Finds a profile by its name; null when there is none.</summary>
    public static KernelProfile? Find(string name) => All.FirstOrDefault(profile => profile.Name == name);

    public bool FollowsPfns => Era <= HelperEra.B;

    /// <summary>The helper takes FOLL_PIN references (5.8 on); before it took plain ones.</summary>
    public bool HelperPins => Era >= HelperEra.A2;

    /// <summary>LINUX_VERSION_CODE of the profile's first release, which drivers report.</summary>
    public uint VersionCode
    {
        get
        {
            var version = Version.Parse(Name);
            return ((uint)version.Major << 16) | ((uint)version.Minor << 8);
        }
    }

    /// <summary>vb2_create_framevec passes FOLL_FORCE (until 6.1).</summary>
    public bool HelperForces => Era <= HelperEra.C;

    /// <summary>
    /// vb2_dma_contig marks the pages of a USERPTR buffer dirty whatever the direction (until 4.9, row 86).
    /// </summary>
    public bool Vb2DirtiesAllPages => Era <= HelperEra.A1;

    /// <summary>omap_vout can be opened: its use of the helper ended with the FOLL_PIN references (5.8).</summary>
    public bool HasOmapVout => Era < HelperEra.A2;

    /// <summary>exynos-g2d pins by get_vaddr_frames; by pin_user_pages_fast since 5.12.</summary>
    public bool G2dUsesHelper => Era < HelperEra.B;
}
