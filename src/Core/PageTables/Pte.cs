using System.Runtime.CompilerServices;
using FramePin.Core.Addressing;

namespace FramePin.Core.PageTables;

/// <summary>
/// A page-table entry. High to low: 60 swap entry, 59 write-protected by userfaultfd, 58 soft-dirty, 57 PROT_NONE, 56
/// marker, 55 no struct page wanted (pfn entry), 54 secret, 53 no mapping, 52 dirty-tracked file, 12 to 51 PFN (or swap
/// slot, marker kind, table number), 11 compound, 10 anonymous, 9 exclusive, 8 special, 7 huge, 6 dirty, 5 accessed, 1
/// writable, 0 present.
/// </summary>
/// <remarks>
/// The entry holds flags that Linux keeps in the page (anonymous, exclusive, secretmem, dirty-tracked, large), so that
/// the fast path checks a run of entries with one mask.
/// An exclusive page has exactly one entry (Semantics 3.6), so its bit can live there.
/// </remarks>
internal static class Pte
{
    public const ulong Present = 1UL << 0;
    public const ulong Write = 1UL << 1;
    public const ulong Accessed = 1UL << 5;
    public const ulong Dirty = 1UL << 6;
    public const ulong Huge = 1UL << 7;
    public const ulong Special = 1UL << 8;
    public const ulong Exclusive = 1UL << 9;
    public const ulong Anon = 1UL << 10;
    /// <summary>Maps a frame of a large folio from the lowest level.</summary>
    public const ulong Compound = 1UL << 11;
    public const ulong DirtyTracked = 1UL << 52;
    /// <summary>The page has a struct page but no mapping (kernel memory mapped by vm_insert_page).</summary>
    public const ulong NoMapping = 1UL << 53;
    public const ulong Secret = 1UL << 54;
    /// <summary>A raw PFN: special and without a page to reference.</summary>
    public const ulong RawPfn = 1UL << 55;
    public const ulong Marker = 1UL << 56;
    /// <summary>Keeps its PFN but no access at all (PROT_NONE); never together with Present.</summary>
    public const ulong ProtNone = 1UL << 57;

    /// <summary>Stored to since the bits were last cleared (CONFIG_MEM_SOFT_DIRTY).</summary>
    public const ulong SoftDirty = 1UL << 58;

    /// <summary>Write-protected by a userfaultfd; never together with Write.</summary>
    public const ulong UffdWp = 1UL << 59;

    /// <summary>
    /// Anonymous memory that was paged out: a slot in place of the PFN; never together with Present, ProtNone or
    /// Marker.
    /// </summary>
    public const ulong Swap = 1UL << 60;

    public const int PfnShift = PageGeometry.PageShift;
    public const ulong PfnMask = ((1UL << 40) - 1) << PfnShift;

    /// <summary>What a leaf carries along when its protection or address changes.</summary>
    public const ulong KeepMask = PfnMask | Accessed | Dirty | Huge | Special | Exclusive | Anon | Compound
        | DirtyTracked | NoMapping | Secret | RawPfn | UffdWp | SoftDirty;

    /// <summary>What a swap entry keeps of the leaf that it replaces.</summary>
    public const ulong SwapKeepMask = Exclusive | UffdWp | SoftDirty;

    public const ulong GuardMarker = Marker | (1UL << PfnShift);
    /// <summary>What UFFDIO_POISON leaves: reads as broken memory, though no frame is.</summary>
    public const ulong UffdPoisonMarker = Marker | (3UL << PfnShift);
    public const ulong PoisonMarker = Marker | (2UL << PfnShift);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static Pfn PfnOf(ulong entry) => new((entry & PfnMask) >> PfnShift);

    public static ulong SlotOf(ulong entry) => (entry & PfnMask) >> PfnShift;

    /// <summary>A swap entry; anonymous as the page that it stands for.</summary>
    public static ulong SwapEntry(ulong slot, ulong kept) => (slot << PfnShift) | Swap | Anon | kept;

    public static ulong Leaf(Pfn pfn, ulong bits) => (pfn.Value << PfnShift) | bits;

    /// <summary>Maps something: present, or there but without access.</summary>
    public static bool IsMapped(ulong entry) => (entry & (Present | ProtNone)) != 0;

    public static bool Has(ulong entry, ulong bits) => (entry & bits) == bits;
}
