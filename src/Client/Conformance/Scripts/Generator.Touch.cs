using FramePin.Core.Addressing;

namespace FramePin.Conformance.Scripts;

/// <summary>Addresses that a program touches.</summary>
public sealed partial class Generator
{
    /// <summary>
    /// Both ends of what a processor translates, with four levels of page tables and with five, and what lies around
    /// the end of a program's address space. Nothing is mapped there, but where a script has used a hint.
    /// </summary>
    private static readonly ulong[] Ends =
    [
        PageGeometry.MapWindow - 1, PageGeometry.MapWindow, (1UL << 47) - 1, 1UL << 47, (1UL << 47) + Page,
        PageGeometry.FiveLevelTaskSize - 1, PageGeometry.FiveLevelTaskSize, (1UL << 56) - 1, 1UL << 56,
        0x1234_0000_0000_0000, long.MaxValue, 1UL << 63,
        0xfeff_ffff_ffff_ffff, 0xff00_0000_0000_0000, 0xffff_7fff_ffff_ffff, 0xffff_8000_0000_0000, ulong.MaxValue,
    ];

    /// <summary>An address for a load or a store of one byte: mostly in the page at hand.</summary>
    private ulong PickTouch(IReadOnlyList<Area> areas, ulong address) =>
        Chance(50) ? Pick(Ends) : PickByteAt(areas, address);
}
