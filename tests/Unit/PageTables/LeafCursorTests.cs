using FramePin.Core.Addressing;
using FramePin.Core.PageTables;
using Xunit;

namespace FramePin.Tests.Unit.PageTables;

/// <summary>The protocol that the remarks of <see cref="LeafCursor"/> state.</summary>
public sealed class LeafCursorTests : TableFixture
{
    [Fact]
    public void An_empty_table_has_no_leaf()
    {
        var leaf = Table.Leaves(0, PageGeometry.MapWindow);
        Assert.False(leaf.MoveNext());
        Assert.False(leaf.MoveNext());
    }

    [Fact]
    public void Leaves_of_every_size_come_in_ascending_order_and_only_those_of_the_range()
    {
        ulong[] small = [Page, 7 * Page, Huge - Page, 5 * Huge, PageGeometry.PudSize * 300];
        foreach (var address in small) Put(address, 0);
        Put(2 * Huge, PageGeometry.PmdOrder);
        Put(PageGeometry.PudSize, PageGeometry.PudOrder);
        Assert.Equal(
            [7 * Page, Huge - Page, 2 * Huge, 5 * Huge, PageGeometry.PudSize],
            Visited(2 * Page, PageGeometry.PudSize * 300));
        Assert.Equal([PageGeometry.PudSize * 300], Visited(2 * PageGeometry.PudSize, PageGeometry.MapWindow));
    }

    [Fact]
    public void A_leaf_that_the_range_cuts_is_visited_whole_and_its_address_lies_in_the_range()
    {
        Put(2 * Huge, PageGeometry.PmdOrder);
        var leaf = Table.Leaves((2 * Huge) + (3 * Page), (2 * Huge) + (4 * Page));
        Assert.True(leaf.MoveNext());
        Assert.Equal((2 * Huge) + (3 * Page), leaf.Address);
        Assert.Equal(3 * Huge, leaf.End);
        Assert.Equal(PageGeometry.PmdOrder, leaf.Slot.Order);
        Assert.False(leaf.MoveNext());
    }

    [Fact]
    public void Cleared_entries_are_behind_the_cursor_and_entries_that_appear_ahead_are_seen()
    {
        for (var i = 0UL; i < 4; i++) Put(i * Page, 0);
        var leaf = Table.Leaves(0, Huge * 4);
        var visited = new List<ulong>();
        while (leaf.MoveNext())
        {
            visited.Add(leaf.Address);
            leaf.Entry = 0;
            if (leaf.Address == 0)
            {
                Table[Table.Find(2 * Page)] = 0;
                Put(3 * Huge, PageGeometry.PmdOrder);
            }
        }

        Assert.Equal([0, Page, 3 * Page, 3 * Huge], visited);
        Assert.Equal(0UL, Table.Read(Page));
    }

    [Fact]
    public void A_leaf_that_was_split_is_passed_over_or_visited_again_in_its_parts()
    {
        Put(0, PageGeometry.PmdOrder);
        Put(Huge, PageGeometry.PmdOrder);
        var leaf = Table.Leaves(0, 2 * Huge);
        Assert.True(leaf.MoveNext());
        Assert.True(Table.Split(leaf.Slot));
        Assert.True(leaf.MoveNext());
        Assert.Equal(Huge, leaf.Address);
        Assert.True(Table.Split(leaf.Slot));
        leaf.Again();
        var parts = 0;
        while (leaf.MoveNext())
        {
            Assert.Equal(0, leaf.Slot.Order);
            Assert.Equal(Huge + ((ulong)parts++ * Page), leaf.Address);
        }

        Assert.Equal(PageGeometry.EntriesPerTable, parts);
    }

    [Fact]
    public void Skipped_entries_are_not_visited()
    {
        for (var i = 0UL; i < 8; i++) Put(i * Page, 0);
        var leaf = Table.Leaves(0, Huge);
        Assert.True(leaf.MoveNext());
        leaf.Skip(5);
        Assert.True(leaf.MoveNext());
        Assert.Equal(5 * Page, leaf.Address);
    }

    private List<ulong> Visited(ulong start, ulong end)
    {
        var visited = new List<ulong>();
        var leaf = Table.Leaves(start, end);
        while (leaf.MoveNext()) visited.Add(leaf.Address);
        return visited;
    }
}
